"""Long work in a process of its own: a request in a folder, a stream of events, and a worker that can be followed.

>>> folder = create_job(JobRequest("segment", SegmentParameters(...).to_json()))
>>> start_job(folder)
>>> read_status(folder).state
<JobState.RUNNING: 'running'>

The folder is described in ``docs/job-format.md``. Only what the worker runs imports torch; a front end never needs it.
"""
