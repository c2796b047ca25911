"""A doctor for data sets: what is wrong with the data of a config, and how to mend it."""

from mmonepeace.engine.doctor.examination import examine
from mmonepeace.engine.doctor.findings import Finding, Report

__all__ = ["Finding", "Report", "examine"]
