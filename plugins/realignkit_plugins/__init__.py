"""First-party plugins of realignkit, each announced by an entry point exactly as a stranger's would be."""
