"""RT-1 as a policy of LeRobot, which imports this package at its start and finds the rest by name."""

from lerobot_policy_rt1.configuration_rt1 import RT1Config

__all__ = ["RT1Config"]
