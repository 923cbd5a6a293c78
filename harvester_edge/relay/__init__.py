"""The relay: between pilots without a route out and the dispatcher, through hours without it."""
