"""Evaluation of a run by a named protocol: videos, pairs or classes, of the exported networks or of any commit.

`question` is what is asked, `subject` the networks it is asked of, `parts` the work cut into tasks, each a plain function of what it is
given, `distances` the moments and distances of their features, `result` what comes out, and `answer` the way through.
"""
