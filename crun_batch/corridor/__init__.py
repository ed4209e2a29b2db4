"""The corridor: the only code that enters the rooms. `run.py` is its front; each module here is one stretch of it.

In the order in which a run walks through them:

    load    workload                                              rows, variants, requests, tickets
    open    opening recovery reopening books pricing              whose directory it is, what of it is done
    plan    asking endpoint preflight assessing bodies piloting   what the gateway says, what it will cost
    send    sending session source dialogue settle sharing        from the first request to the last record
            watching ground                                       what others see of it, what it stands on
    close   scoring opened                                        scores, the `Run`
    ask     live checking comparing reporting report_sums         for people and other commands: read only
            report_spread offered mapping starter options
"""
