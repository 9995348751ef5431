"""Deployments: schedules, work pools and limits; no logic."""
