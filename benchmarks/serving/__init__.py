"""Serving measured against llama.cpp, OpenVINO GenAI and transformers, in one run.

Every engine lives in a process of its own, loads once and waits idle for commands, so runs
alternate (ours, peer, peer, ours, …) and a slow minute of the machine hits all alike. All get
the same weights, the same prompts as token ids, and make the same number of new tokens.

Read in this order: `metrics` (what the names mean), `workload` (what is asked), `engine_process`
and `engines/` (who answers), `session` (in which order), `machine` (on what), `report`.
"""
