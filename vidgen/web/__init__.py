"""One page in a browser over `vidgen generate`: clips, stories, and clips made larger.

`vidgen web` serves it. What is typed becomes the words of a command (`commands`), which a worker
runs as the command would, one after the other (`jobs`), while the page (`page`) shows its steps.
"""
