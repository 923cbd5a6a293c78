"""The rules of the queue: functions of a transaction, and pure ones."""
