"""The bus: how workers tell each other things. In memory for one worker, Redis for many."""
