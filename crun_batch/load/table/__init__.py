"""From table files, frames or SQL to rows: in a stable order, with unique ids, in bounded memory."""
