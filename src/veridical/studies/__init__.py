"""What to train, what to measure and what was published: one file for each study, on one mechanism."""

from veridical.studies.study import Case, Context, Study, StudyResult, Work

__all__ = ["Case", "Context", "Study", "StudyResult", "Work"]
