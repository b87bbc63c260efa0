"""Who listens to events: subscribers, none of which is needed to run."""
