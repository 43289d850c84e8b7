"""The core of the policy's process, without ROS: mailbox, matching, worker, watchdog, instructions."""
