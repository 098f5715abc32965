"""What is timed, and in which order.

campaign.py   all of one domain: replays, pilot, plan, decodes
session.py    probes and decodes by one engine, one at a time; windows of steady decoding
served.py     planned variants in another engine, in fresh processes
isolated.py   parts of rounds on their own
timing.py     the one timing loop, and what a device's clock can resolve
launches.py   how much of a round a GPU waits for its host
workload.py   prompts, and the steps that each of them is measured by
attempts.py   a case that fails is recorded
"""
