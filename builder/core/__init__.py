"""What all of the builder uses: settings, files, git, messages, the command line."""
