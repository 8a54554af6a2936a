"""From a source to the broker: assemble, plan, dispatch, deliver, acknowledge."""
