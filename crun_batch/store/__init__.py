"""Outcomes to disk: journal, sealed Parquet, published results. The only writer; knows no protocol, no price."""
