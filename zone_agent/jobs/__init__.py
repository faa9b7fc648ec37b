"""Jobs: long operations that outlive the agent that runs them."""

from zone_agent.jobs.book import JobBook, Stored
from zone_agent.jobs.job import Job, Work, job_for, thing
from zone_agent.jobs.runner import Jobs
from zone_agent.jobs.settings import JobSettings

__all__ = ["Job", "JobBook", "JobSettings", "Jobs", "Stored", "Work", "job_for", "thing"]
