"""What holds of the paper's claims, setting by setting and number by number, with the evidence."""
