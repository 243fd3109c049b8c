# What rules share: functions of a cell, and what jobs ask a scheduler for.


CELL = "{model}/{pruning}/{adaptation}/seed{seed}"


def of_this_repository(file):
    """Return a file of the repository that this workflow is in, whichever folder it is run in."""
    path = REPOSITORY / file
    # Snakemake knows the files of a clone by their relative names.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def image_of_jobs():
    """Return the image that jobs run in, which must be there before the first of them."""
    image = of_this_repository("envs/freelunch.sif")
    try:
        check_image(Path(image))
    except UserError as error:
        raise WorkflowError(str(error))
    return image


def cell_of(wildcards):
    """Return the cell's identity as a path."""
    return f"{wildcards.model}/{wildcards.pruning}/{wildcards.adaptation}/seed{wildcards.seed}"


def asks(job_of):
    """Return the resources that a rule's jobs ask a scheduler for, by name.

    Args:
        job_of: Function of wildcards that returns the job, by which the plan knows its cost.
    """

    def asked(name):
        def resource(wildcards, attempt):
            job = job_of(wildcards)
            first = first_request(job)
            if attempt == 1:
                return getattr(first, name)
            whole = request_of_cell(wildcards) if hasattr(wildcards, "adaptation") else first
            return getattr(again(first, attempt, whole, most_of(job.rule, whole)), name)

        return resource

    return {name: asked(name) for name in JobRequest._fields}


def asks_with_device(job_of):
    """Return the resources of a rule whose jobs compute on a GPU, if the run uses GPUs."""
    return asks(job_of) | ({"gpu": 1} if USES_GPUS else {})


@cache
def first_request(job):
    """Return what the first attempt at a job asks for. Rates that are not given are measured, once."""
    return request(PLAN, planned_machine(), job, window_groups())


def adapting_job(wildcards):
    """Return the job that adapts a cell or a candidate; its cost depends on the pattern, too."""
    return adapting_jobs(STUDY, Cell.parse(cell_of(wildcards)))[0]


def request_of_cell(wildcards):
    """Return what the first attempt at a cell's own steps asks for, which a scheduler may run as one."""
    jobs = adapting_jobs(STUDY, Cell.parse(cell_of(wildcards)))
    return together([*map(first_request, jobs), RECORD])


@cache
def most_of(rule, whole):
    """Return the most that later attempts at a job may ask Slurm for; no limit elsewhere."""
    if getattr(workflow.executor_plugin, "name", None) != "slurm":
        return Limits()
    given = dict((workflow.resource_settings.default_resources or {}).items())
    given |= workflow.resource_settings.overwrite_resources.get(rule, {})
    given = {name: getattr(value, "raw", value) for name, value in given.items()}
    return partitions().most(given | whole._asdict() | {"gpu": int(USES_GPUS)})


@cache
def partitions():
    """Return the partitions of the cluster, and those of the executor's file."""
    file = workflow.executor_settings.partition_config or os.getenv("SNAKEMAKE_SLURM_PARTITIONS")
    return Partitions.of_cluster(Path(file) if file else None)


@cache
def planned_machine():
    """Return the machine whose rates the plan takes."""
    names = [device.name for device in DEVICES]
    learnt = learnt_rate(Path("results"), PLAN.device_bytes is not None, names)
    return Machine.of(FLOPS_PER_S, device_bytes=PLAN.device_bytes, learnt=learnt)


@cache
def workers():
    """Return how many jobs can compute at a time: GPUs of this machine, or nodes of a partition."""
    # A dry run does not know what would execute it, and a report executes nothing.
    if getattr(workflow.executor_plugin, "name", None) != "slurm":
        return len(DEVICES)
    asked = workflow.resource_settings.default_resources or {}
    return slurm.count_nodes(getattr(asked.get("slurm_partition"), "raw", None))


@cache
def window_groups():
    """Return the number of jobs that share the windows of one reconstruction.

    The command line or the profile may set it. Otherwise it is what it was when the study's
    reconstructions were finished, or else the number of GPUs or nodes decides.
    """
    given = workflow.resource_settings.overwrite_scatter
    if "windows" not in given and not workflow.remote_exec:
        found = finished_groups(STUDY)
        if found is None:
            found = requests.window_groups(PLAN, planned_machine(), workers()) if workers() > 1 else 1
        # This passes the number on to jobs that start on other machines.
        workflow.resource_settings.overwrite_scatter = {**given, "windows": found}
    return workflow.resource_settings.overwrite_scatter.get("windows", 1)


def planned_jobs():
    """Return the seconds that the plan gives each job that is about to run, by its number.

    A job without a log only names what other jobs make.
    """
    return {
        workflow.dag.jobid(job): planned_s(
            PLAN, planned_machine(), job.rule.name, job.wildcards_dict
        )
        for job in workflow.dag.needrun_jobs()
        if job.log
    }


def makes_whole_study():
    """Return whether this run was asked for everything that the study makes."""
    return any(re.fullmatch(r"(\w+_)?all", job.rule.name) for job in workflow.dag.targetjobs)


def only_fetches():
    """Return whether this run was asked for downloads alone."""
    return all(
        re.fullmatch(r"(\w+_)?fetch(_\w+)?", job.rule.name) for job in workflow.dag.targetjobs
    )


def choose_status_command():
    """Have Snakemake ask Slurm how jobs are by a command that answers."""
    settings = workflow.executor_settings
    try:
        command = slurm.status_command(
            settings.status_command, settings.init_seconds_before_status_checks
        )
    except UserError as error:
        raise WorkflowError(str(error))
    if command != settings.status_command:
        logger.warning(
            "Slurm has no accounting here (`sacct` fails), so `squeue` tells how jobs are. "
            f"`slurm-status-command: {command}` in the profile says the same."
        )
        settings.status_command = command


def jobs_for_scheduler():
    """Return rule, group and resources of each job that is about to run elsewhere."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    return [(job.rule.name, job.group, dict(job.resources.items())) for job in jobs]


def check_scheduler():
    """Check that Slurm would take the jobs that are about to run, and could start them."""
    try:
        slurm.check_requests(jobs_for_scheduler(), partitions())
    except UserError as error:
        raise WorkflowError(str(error))


def slurm_logs():
    """Return the folder of Slurm's logs, of which there are none without Slurm."""
    chosen = getattr(workflow.executor_settings, "logdir", None)
    return Path(chosen or ".snakemake/slurm_logs").resolve()


def scheduled_cell(wildcards):
    """Return the name of the job in which a scheduler runs a cell's own steps one after another.

    Adaptation, evaluation and record would each wait in the queue and start for a minute's work.
    """
    return Cell.parse(cell_of(wildcards)).record_name.removesuffix(".json")


def scheduled_windows(wildcards):
    """Return the same for a job that adapts windows; None if several such jobs run side by side."""
    return None if window_groups() > 1 else scheduled_cell(wildcards)


def pruning_job(wildcards):
    """Return the job that prunes a cell. On this machine it may choose masks by the study's other criteria,
    too, and then takes as much memory as the largest of these jobs.
    """
    pruned = Cell(wildcards.model, wildcards.criterion, wildcards.pattern, NONE, int(wildcards.seed))
    own = PlannedJob(steps.PRUNE_MODEL, pruned)
    if not share_passes() or not requests.is_shared(STUDY, wildcards.criterion):
        return own
    return max([own, *pruning_jobs(wildcards.model)], key=lambda job: first_request(job).mem_mb)


@cache
def pruning_jobs(model):
    """Return jobs that prune a model and can share a pass."""
    cells = [cell for cell in CELLS if cell.model == model and not cell.is_dense]
    shared = [cell for cell in cells if requests.is_shared(STUDY, cell.criterion)]
    return sorted({PlannedJob.of(steps.PRUNE_MODEL, cell) for cell in shared})


def share_passes():
    """Return whether jobs know of each other: not those that a scheduler starts one by one."""
    return workflow.local_exec and not workflow.remote_exec


@cache
def pruned_manifests(model, seed):
    """Return the names of the masks of a model and seed, by their manifests."""
    names = {it.pruning for it in CELLS if (it.model, str(it.seed)) == (model, seed)} - {DENSE}
    return {paths.manifest(PATHS.pruned(model, name, seed)): name for name in names}


def masks_together(wildcards):
    """Return, as a resource, the masks of a model and seed that jobs of this run choose together; None if
    a job shares nothing.
    """
    if not share_passes():
        return None
    # Their outputs tell the study's own jobs, also where another workflow imports several studies.
    own = pruned_manifests(wildcards.model, wildcards.seed)
    # Those that are finished, too: a job that is tried again has the same groups.
    jobs = {
        own[job.output[0]]: job
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
        if job.output and job.output[0] in own
    }
    # All workers may begin with the same model and seed, and none should have to wait.
    workers = (len(DEVICES) if USES_GPUS else workflow.resource_settings.cores) or 1
    divided = requests.mask_groups(PLAN, planned_machine(), wildcards.model, jobs, workers)
    shared = {name for group in divided for name in group}
    if f"{wildcards.criterion}-{wildcards.pattern}" not in shared or len(shared) == len(divided):
        return None
    criteria = {
        jobs[name].wildcards.criterion: [jobs[name].params.criterion, jobs[name].params.code]
        for name in sorted(shared)
    }
    return json.dumps({"criteria": criteria, "groups": divided}, separators=(",", ":"))


def masks_of(wildcards):
    """Return the masks of a cell; nothing for the dense cell."""
    if wildcards.pruning == DENSE:
        return []
    return [paths.manifest(PATHS.pruned(wildcards.model, wildcards.pruning, wildcards.seed))]


def sample_of(wildcards):
    """Return the token ids that a cell's adaptation is trained on."""
    samples = STUDY.samples(wildcards.adaptation)
    if samples == STUDY.calibration.samples:
        return paths.manifest(PATHS.calibration(wildcards.model, wildcards.seed))
    return paths.manifest(PATHS.extended(wildcards.model, wildcards.seed, samples))


def text_of_mixture(wildcards):
    """Return what every sample of a mixture is drawn from, and what it leaves out."""
    return {
        "model": paths.manifest(PATHS.model(wildcards.model)),
        "text": paths.manifest(PATHS.text(STUDY.calibration.text)),
        "evaluation": paths.manifest(PATHS.text(STUDY.perplexity.text)),
        "windows": paths.manifest(PATHS.text_windows(wildcards.model)),
    }


def held_out_of_extended(wildcards):
    """Return the held-out text that a sample larger than the calibration sample leaves out."""
    if int(wildcards.samples) <= STUDY.calibration.samples:
        return []
    return [paths.manifest(PATHS.held_out(wildcards.model, wildcards.seed))]


def adapted_of(wildcards):
    """Return the manifests of a cell's adapted blocks; nothing if it is not adapted."""
    return adapted_of_cell(Cell.parse(cell_of(wildcards)))


def adapted_of_cell(cell):
    if cell.adaptation == NONE:
        return []
    if STUDY.candidates(cell):
        return [paths.manifest(PATHS.windows(cell, "chosen"))]
    settings = STUDY.adaptation(cell.adaptation)
    if settings.is_retraining:
        return [paths.manifest(PATHS.windows(cell, windows.MODEL))]
    if settings.is_sequential:
        return [paths.manifest(PATHS.windows(cell, "1-of-1"))]
    return [
        paths.manifest(PATHS.windows(cell, f"{group}-of-{window_groups()}"))
        for group in range(1, window_groups() + 1)
    ]


def candidates_adapted_of(wildcards):
    """Return the manifests of the adapted blocks of a cell's candidates, one after another."""
    cells = STUDY.candidates(Cell.parse(cell_of(wildcards)))
    return [path for cell in cells for path in adapted_of_cell(cell)]


def candidate_metrics_of(wildcards):
    """Return the manifests of the measurements of a cell's candidates."""
    cells = STUDY.candidates(Cell.parse(cell_of(wildcards)))
    return [paths.manifest(PATHS.metrics(candidate)) for candidate in cells]


def measured_with(wildcards):
    """Return the inputs of each measurement of a cell besides its checkpoint, by its name."""
    model, seed = wildcards.model, wildcards.seed
    held_out = PATHS.held_out(model, seed)
    needed = {
        steps.PERPLEXITY: [PATHS.text_windows(model)],
        steps.HELD_OUT: [held_out],
        steps.DRIFT: [PATHS.model(model), held_out, PATHS.reference(model, seed)],
        steps.TASKS: [PATHS.task(name) for name in STUDY.tasks.get("tasks", {})],
    }
    return {
        name: [paths.manifest(folder) for folder in needed.get(name, [])]
        for name in STUDY.measurements(Cell.parse(cell_of(wildcards)))
    }


def dense_metrics_of(wildcards):
    """Return the measurements of the dense model, for which all other cells wait; nothing for the
    dense cell itself and for candidates, which are compared among themselves.
    """
    if (
        wildcards.pruning == DENSE
        or search.adaptation_of(wildcards.adaptation) != wildcards.adaptation
    ):
        return []
    return [paths.manifest(PATHS.metrics(Cell.dense(wildcards.model)))]


def is_forced(rule):
    """Return, as a resource, whether the command line forces a rule to run.

    Snakemake starts each job on another machine with `--force`, so these jobs are told which rules the
    command line forces.
    """
    if workflow.remote_exec:
        return int(rule in config.get(FORCED, "").split(","))
    return int(rule in forced_rules())


@cache
def forced_rules():
    """Return the forced rules among those that otherwise take over what is finished."""
    asked = workflow.dag_settings
    everything = asked.forceall or asked.forcetargets
    # Where another workflow imports a rule, its name may have a prefix.
    forced = [
        name
        for name in (steps.EVALUATE_CELL, steps.RECONSTRUCT_WINDOW)
        if everything or any(re.fullmatch(rf"(\w+_)?{name}", other) for other in asked.forcerun)
    ]
    if forced:
        settings = workflow.config_settings
        settings.config_args = [*(settings.config_args or []), f"{FORCED}={','.join(forced)}"]
    return forced


def steps_of(wildcards):
    """Return what a record is collected from: the manifest of each step."""
    cell = Cell.parse(cell_of(wildcards))
    texts = {STUDY.perplexity.text}
    folders = [PATHS.model(cell.model), PATHS.checkpoint(cell), PATHS.metrics(cell)]
    if not cell.is_dense:
        texts.add(STUDY.calibration.text)
        folders += [
            PATHS.calibration(cell.model, cell.seed),
            PATHS.pruned(cell.model, cell.pruning, cell.seed),
        ]
        if STUDY.needs_held_out(cell):
            folders.append(PATHS.held_out(cell.model, cell.seed))
        folders += [
            PATHS.extended(cell.model, cell.seed, samples)
            for samples in STUDY.sizes(cell.adaptation)
        ]
    if STUDY.measures_drift(cell):
        folders.append(PATHS.reference(cell.model, cell.seed))
    folders += [PATHS.text(text) for text in sorted(texts)]
    if STUDY.asks_tasks(cell):
        folders += [PATHS.task(task) for task in STUDY.tasks["tasks"]]
    return [paths.manifest(folder) for folder in folders]


# Snakemake would read a line that begins with `report` as a directive.
reported = report


def table_file(table):
    """Return the file of a table, marked for the report."""
    return reported(
        PATHS.root / table.file,
        caption="../report/tables.rst",
        category="Tables",
        labels={"table": table.name, "content": table.content},
    )


def figure_file(suffix):
    """Return the file of any figure in a format, marked for the report."""
    return reported(
        PATHS.figures / f"{{figure}}.{suffix}",
        caption="../report/figure.rst",
        category="Figures",
        labels=lambda wildcards: {
            "figure": figure_of(wildcards).title,
            "format": suffix.upper(),
        },
    )


def figure_of(wildcards):
    return figures.figures()[wildcards.figure]
