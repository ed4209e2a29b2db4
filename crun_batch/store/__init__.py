"""From outcomes to files: the journal, its sealing into Parquet, the published results.

Side effect: writes the run directory, as its only writer. Must not know: protocols, prices, the network.
"""
