"""Run modes: each is a frozen dataclass filled by gin whose call does the work."""
