"""Finds the packages. Metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vtp_core*", "vtp_plugins*"]), "vtp_recipes"],
    package_dir={"vtp_recipes": "recipes"},
)
