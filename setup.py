"""The packaging entry point; everything it knows stands in setup.cfg."""

from setuptools import setup

setup()
