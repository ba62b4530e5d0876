"""Jobs over datasets: an analyzer, a source of samples, and a folder of results that can be gone on with.

    relprop.jobs.run(model="demo", source="pictures", out="found")
    relprop.jobs.open("found").pandas()

What may live here: sources, the run, its files, and how they are read. Nothing that looks for strategies.
"""
