"""The audit: which of the paper's claims a study finds, with settings, numbers and evidence."""
