"""The take-over of one machine of a kubeadm cluster: what each state asks of it, and the steps there and back.

`arrangement` says what a state asks; `machine` reads what is there; `steps` are what is left; `carry_out` does them.
Every step is judged by what is on the disk and by the processes, so a run that was killed goes on by running again.
"""
