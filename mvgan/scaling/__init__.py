"""What a training of stage 1 would do on another cluster: arithmetic on measured figures, without torch and without a cluster."""
