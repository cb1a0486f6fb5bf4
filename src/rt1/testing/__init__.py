"""Checks for your own adapters: environments, task suites, data sources and policies."""

from rt1.testing.environment import check_env as check_env
from rt1.testing.policy import check_policy as check_policy
from rt1.testing.source import check_source as check_source
from rt1.testing.suite import check_suite as check_suite
