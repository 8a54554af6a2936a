"""Remote control: asking producers, and answering as one."""
