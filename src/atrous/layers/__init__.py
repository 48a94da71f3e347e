"""Parts of networks, with no policy and no input or output of files."""
