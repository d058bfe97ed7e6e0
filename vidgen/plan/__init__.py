"""What a configuration costs, before anything is allocated: `vidgen plan`."""
