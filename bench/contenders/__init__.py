"""One file a family of libraries: `infer(job)` gives a call and its result, `learner(job)` a net.

Each is imported in a worker process only, and imports nothing but its own library there.
"""
