"""A job's files: inputs, outputs, logs."""
