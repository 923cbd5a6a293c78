"""What users may ask for, in seconds of the dispatcher's time."""
