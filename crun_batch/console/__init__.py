"""What a terminal shows: amounts, sentences, tables, progress. Pure: gives text, prints nothing."""
