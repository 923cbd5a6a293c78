"""The way to the dispatcher: requests, heartbeats, and reports that are kept until they are
acknowledged."""
