"""One job in several runs: who gives them their parts, who carries the words, how they become one."""
