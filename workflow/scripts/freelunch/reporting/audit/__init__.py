"""The audit: which of the paper's claims hold, with settings, numbers and evidence."""
