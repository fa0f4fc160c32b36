"""Settings that make every stage of a run on Pocket quick; what it makes is not good."""

SMALL = (
    "tokens.max_updates=2",
    "tokens.validation_images=2",
    "tokens.certificate_images=2",
    "tokens.images_per_update=2",
    "tokens.classes_per_work_unit=1",
    "tokens.plain_first=false",
    "tokens.target_accuracy=0.01",
    "tokens.target_probability=0.0",
    "tokens.restarts=0",
    "sampling.num_inference_steps=2",
    "generation.allow_uncertified=true",
    "downstream.steps=2",
    "downstream.batch_size=4",
    "benchmark.seeds=2",
    "benchmark.per_class=2",
    "metrics.bootstrap_resamples=20",
    "metrics.real_images=24",
    "metrics.nearest_neighbours=2",
    "on_class_failure=skip",
)
