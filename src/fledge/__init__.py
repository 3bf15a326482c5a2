"""fledge: raise your own ChatGPT."""
