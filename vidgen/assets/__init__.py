"""Third-party files and the models of the package: lists, hashes, downloads."""
