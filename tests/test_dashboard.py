"""The dashboard: which commits, which suite, which pages; in small repositories and on few results. What takes builds is a script's."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from ruvattn.errors import InvalidInputError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def git(folder, *arguments, **variables):
    """Run git with a name of its own, whatever this machine is set up for."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, **variables}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "Somebody", f"GIT_{who}_EMAIL": "somebody@example.org"}
    run = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment)
    return run.stdout.strip()


@pytest.fixture(scope="module")
def twelve_commits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("git") / "repository"
    (folder / "ruvattn").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for number in range(1, 13):
        (folder / "ruvattn" / "a.py").write_text(f"{number}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", str(number), "--date", f"2026-01-{number:02}T00:00:00")
    return folder


@pytest.fixture
def repository(twelve_commits, tmp_path):
    """A repository of twelve commits, the first of them called "1", to do with what one likes."""
    return shutil.copytree(twelve_commits, tmp_path / "repository")


def subjects(found):
    commits, _ = found
    return [int(commit.subject) for commit in commits]


# --- commits ----------------------------------------------------------------------------------------------------------------------


def test_the_newest_commit_is_measured_unless_others_are_named(repository):
    from history import select

    assert subjects(select(repository, [])) == [12]


def test_a_range_has_its_newest_commit_first_and_its_base_not_at_all(repository):
    from history import select

    assert sorted(subjects(select(repository, ["main~3..main"]))) == [10, 11, 12]
    assert subjects(select(repository, ["main~3..main"]))[0] == 12


def test_names_and_ranges_go_together_and_none_is_measured_twice(repository):
    from history import select

    assert sorted(subjects(select(repository, ["main main~11", "main~1..main"]))) == [1, 12]


def test_of_a_long_range_some_commits_are_taken_with_both_ends(repository):
    from history import STEPS, select

    commits, total = select(repository, ["main~11..main"])
    assert (len(commits), total) == (STEPS, 11)
    assert subjects(select(repository, ["main~11..main"], 3)) == [12, 7, 2]
    assert subjects(select(repository, ["main~11..main"], 1)) == [12]
    assert len(subjects(select(repository, ["main~11..main"], 0))) == 11


def test_commits_of_the_same_second_keep_their_order(repository):
    from history import newest_first

    environment = {"GIT_COMMITTER_DATE": "2026-02-01T00:00:00", "GIT_AUTHOR_DATE": "2026-02-01T00:00:00"}
    for number in range(20):
        git(repository, "commit", "-q", "--allow-empty", "-m", str(number), **environment)
    right = git(repository, "rev-list", "main").split()
    assert newest_first(repository, sorted(right)) == right
    assert newest_first(repository, ["0" * 40, right[0]]) == [right[0], "0" * 40]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "no such commit"),
        ("nothing..main", "no such commit"),
        ("--all", "no such commit"),
        ("main..main~2", "is empty: main~2 has no commits that main lacks; the other way round, main~2..main, has some"),
        ("main..main", "is empty"),
        ("main~2...main", "three dots"),
    ],
)
def test_what_names_no_commits_is_an_error_that_says_so(repository, spec, words):
    from history import select

    with pytest.raises(InvalidInputError, match=re.escape(words)):
        select(repository, [spec])


def test_a_shallow_clone_is_told_how_to_get_the_others(repository, tmp_path):
    from history import select

    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    with pytest.raises(InvalidInputError, match="unshallow"):
        select(tmp_path / "shallow", ["main~3..main"])


def test_a_folder_that_is_no_git_tree_is_an_error(repository, tmp_path):
    from history import select

    for folder in (tmp_path, repository / "ruvattn"):
        with pytest.raises(InvalidInputError, match="not a git tree"):
            select(folder, [])


def test_changes_are_those_of_what_wheels_are_made_of(repository):
    from history import changes

    assert changes(repository) == []
    (repository / "README.md").write_text("not in a wheel's kernels\n")
    (repository / "ruvattn" / "a.py").write_text("changed\n")
    (repository / "ruvattn" / "new file.py").write_text("new\n")
    assert changes(repository) == ["ruvattn/a.py", "ruvattn/new file.py"]


def test_looking_at_the_checkout_writes_nothing_to_it(repository):
    from history import branches, changes, select

    os.utime(repository / "ruvattn" / "a.py")  # "git status" would now refresh the index
    before = {file: file.stat().st_mtime_ns for file in repository.rglob("*") if file.is_file()}
    commits, _ = select(repository, ["main~3..main"])
    changes(repository)
    branches(repository, commits)
    assert {file: file.stat().st_mtime_ns for file in repository.rglob("*") if file.is_file()} == before


def test_pages_reach_commits_of_other_branches_and_of_a_detached_head(repository):
    from history import branches, select

    git(repository, "checkout", "-q", "-b", "side", "main~2")
    (repository / "ruvattn" / "a.py").write_text("13\n")
    git(repository, "commit", "-qam", "13")
    git(repository, "checkout", "-q", "main")
    commits, _ = select(repository, ["side", "main"])
    names = branches(repository, commits)
    assert names[0] == "main"
    assert git(repository, "rev-parse", "side") in names
    git(repository, "checkout", "-q", "--detach")
    assert branches(repository, select(repository, [])[0]) == ["HEAD"]


# --- the suite --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path):
    """A plugin's project with one benchmark, in a folder whose name has what shells and templates mind."""
    folder = tmp_path / "demo {x} of mine"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "build").mkdir()
    (folder / "build" / "left.o").write_text("")
    (folder / "src" / "demo_x").mkdir(parents=True)
    (folder / "src" / "demo_x" / "__init__.py").write_text("")
    (folder / "pyproject.toml").write_text('[project]\nname = "demo-x"\nversion = "1"\n')
    (folder / "benchmarks" / "rows.py").write_text(
        "from ruvattn.testing.benchmarks import VariantBenchmarks\n\n\nclass Row(VariantBenchmarks):\n    variant = 'standard'\n"
    )
    return folder


def test_a_plugin_is_read_from_its_project(plugin):
    from dashboard_suite import read_plugin

    assert (read_plugin(plugin).name, read_plugin(plugin).module) == ("demo-x", "demo_x")


def test_a_folder_that_is_no_plugin_with_benchmarks_is_an_error_that_says_what_is_missing(plugin, tmp_path):
    from dashboard_suite import read_plugin

    with pytest.raises(InvalidInputError, match="no such folder"):
        read_plugin(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="no pyproject.toml"):
        read_plugin(tmp_path)
    (plugin / "benchmarks" / "rows.py").rename(plugin / "rows.py")
    with pytest.raises(InvalidInputError, match="no benchmarks.*VariantBenchmarks"):
        read_plugin(plugin)
    (plugin / "pyproject.toml").write_text("[project\n")
    with pytest.raises(InvalidInputError, match="can't be read"):
        read_plugin(plugin)


def test_a_plugin_with_the_name_of_a_module_of_the_suite_is_an_error(plugin):
    from dashboard_suite import read_plugin

    (plugin / "pyproject.toml").write_text('[project]\nname = "engine"\n')
    with pytest.raises(InvalidInputError, match="engine"):
        read_plugin(plugin)


def test_a_plugin_whose_name_is_a_path_is_an_error(plugin):
    from dashboard_suite import read_plugin

    (plugin / "pyproject.toml").write_text('[project]\nname = ".."\n')
    with pytest.raises(InvalidInputError, match="no name of a distribution"):
        read_plugin(plugin)


def test_a_plugin_given_twice_is_an_error(plugin):
    from dashboard_suite import Suite, read_plugin

    with pytest.raises(InvalidInputError, match="twice for demo-x"):
        Suite([read_plugin(plugin)] * 2, quick=False, isas="")


def written(plugin, folder, **options):
    from dashboard_suite import Suite, read_plugin

    suite = Suite([read_plugin(plugin)], **{"quick": False, "isas": "v3", "folder": folder, **options})
    suite.write(["main"])
    return suite


def test_quick_results_are_kept_apart(plugin, tmp_path):
    one, other = (written(plugin, tmp_path / "asv", quick=quick) for quick in (False, True))
    assert one.results != other.results
    assert one.html != other.html


def test_of_two_dashboards_at_once_the_second_is_refused(tmp_path):
    from dashboard_suite import Suite

    one, other = (Suite([], quick=quick, isas="", folder=tmp_path / "asv") for quick in (False, True))
    with one.alone(), pytest.raises(InvalidInputError, match="another dashboard"), other.alone():
        pass
    with other.alone():
        pass


def test_environments_with_other_instruction_sets_are_others(plugin, tmp_path):
    folders = {json.loads(written(plugin, tmp_path / "asv", isas=isas).configuration.read_text())["env_dir"] for isas in ("", "v3", "scalar,v3")}
    assert len(folders) == 3


def test_a_plugins_sources_are_copied_without_what_builds_left_there(plugin, tmp_path):
    (plugin / ".#rows.py").symlink_to("somebody@example.org:1")  # as an editor locks a file
    written(plugin, tmp_path / "asv")
    copied = tmp_path / "asv" / "plugins" / "demo-x"
    assert (copied / "src" / "demo_x" / "__init__.py").exists()
    assert not (copied / "build").exists()
    assert (plugin / "build" / "left.o").exists()


def test_a_changed_plugin_is_installed_anew_and_changed_benchmarks_are_no_change(plugin, tmp_path):
    def command():
        return json.loads(written(plugin, tmp_path / "asv").configuration.read_text())["install_command"]

    first = command()
    (plugin / "benchmarks" / "more.py").write_text("")
    assert command() == first
    (plugin / "src" / "demo_x" / "__init__.py").write_text("x = 1\n")
    assert command() != first


def test_asv_reads_the_commands_whatever_the_paths(plugin, tmp_path):
    util = pytest.importorskip("asv.util")
    folder = tmp_path / "it's {here}"
    configuration = json.loads(written(plugin, folder).configuration.read_text())
    known = {"build_dir": "/b", "build_cache_dir": "/c", "commit": "abc", "env_dir": "/e", "project": "ruvattn"}
    command, environment, _, where = util.interpolate_command(configuration["install_command"][0], known)
    assert command == ["python", str(FOLDER / "dashboard_build.py"), "install", "/c", "abc", str(folder / "suite" / "plan.json")]
    assert (list(environment), where) == (["RUVATTN_DASHBOARD"], "/e")


def test_asv_finds_the_benchmarks_of_the_project_and_of_the_plugin_and_no_base_class(plugin, tmp_path):
    runner = pytest.importorskip("asv.runner")
    suite, found = written(plugin, tmp_path / "asv"), tmp_path / "found.json"
    run = subprocess.run(
        [sys.executable, runner.BENCHMARK_RUN_SCRIPT, "discover", suite.place / "benchmarks", found], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    names = {benchmark["name"] for benchmark in json.loads(found.read_text())}
    assert {"variants.Variant.time_sequence", "engine.Dense.time_attention", "demo_x.rows.Row.time_sequence"} <= names
    assert not [name for name in names if re.search(r"\.(Variant|Score|Pattern)Benchmarks\.", name)]


def test_a_plugins_benchmarks_are_made_from_the_classes_of_this_tree_whatever_is_installed(plugin, tmp_path):
    suite = written(plugin, tmp_path / "asv")
    code = "import sys; sys.modules['ruvattn'] = None; from benchmarks.demo_x import rows; print(sys.modules['ruvattn.testing.benchmarks'].__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=suite.place, check=True, capture_output=True, text=True, timeout=60)
    assert Path(run.stdout.strip()) == ROOT / "ruvattn" / "testing" / "benchmarks.py"


def test_benchmarks_of_a_plugin_that_a_run_lacks_are_kept(plugin, tmp_path):
    """asv forgets what it finds no longer, and its pages then lack results that are there."""
    suite = written(plugin, tmp_path / "asv")
    suite.results.mkdir(parents=True)
    before = {"other_x.rows.Row.time_sequence": {"name": "a"}, "engine.Gone.time_it": {"name": "b"}, "demo_x.rows.Gone.time_it": {}, "version": 2}
    now = {"engine.Dense.time_it": {"name": "c"}, "demo_x.rows.Row.time_it": {}, "version": 2}
    (suite.results / "benchmarks.json").write_text(json.dumps(now))
    suite.keep_others(before)
    assert set(suite.known()) == {"other_x.rows.Row.time_sequence", *now}


def test_an_interpreter_that_lacks_something_is_told_how_to_get_it(plugin):
    from dashboard_suite import check_interpreter, read_plugin

    with pytest.raises(InvalidInputError, match="no such interpreter"):
        check_interpreter(plugin / "python", [])
    with pytest.raises(InvalidInputError, match=r"lacks .*demo-x: .* -m pip install .*demo \{x\} of mine"):
        check_interpreter(Path(sys.executable), [read_plugin(plugin)])


# --- pages ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def assets(tmp_path):
    """Archives with the files that are needed, all but empty."""
    from dashboard_assets import PACKAGES

    folder = tmp_path / "assets"
    folder.mkdir()
    for package in PACKAGES:
        content = tmp_path / package.name / "package"
        for inside in package.files:
            (content / inside).parent.mkdir(parents=True, exist_ok=True)
            (content / inside).write_text(f"/* {inside} of {package.name} */")
        with tarfile.open(folder / package.archive, "w:gz") as archive:
            archive.add(content, "package")
    return folder


def loaded(page):
    """Return what a page loads: addresses of scripts, styles and pictures, not those that one may click on."""
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
    return [address for tag in tags for address in re.findall(r'\b(?:src|href)="([^"]*)"', tag)]


def test_asvs_pages_load_nothing_from_elsewhere_and_all_that_they_load_is_there(assets, tmp_path):
    asv = pytest.importorskip("asv")
    from dashboard_assets import localise

    pages = tmp_path / "pages"
    shutil.copytree(Path(asv.__file__).with_name("www"), pages)
    (pages / "regressions.xml").touch()  # which publishing writes
    before = loaded((pages / "index.html").read_text())
    assert any(address.startswith("https:") for address in before)
    localise(pages, assets)
    text = (pages / "index.html").read_text()
    for page in pages.glob("*.html"):
        for address in loaded(page.read_text()):
            assert (pages / address).is_file(), address
    assert len(loaded(text)) == len(before)
    assert "integrity=" not in text
    for style in pages.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", style.read_text()), style


def test_a_page_that_loads_something_unknown_is_an_error(assets, tmp_path):
    from dashboard_assets import localise

    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text('<script src="https://cdn.example.org/new-thing.js"></script>')
    with pytest.raises(InvalidInputError, match=r"cdn\.example\.org/new-thing\.js"):
        localise(pages, assets)


def test_an_archive_that_is_not_what_was_published_is_an_error(assets):
    from dashboard_assets import bring

    with pytest.raises(InvalidInputError, match=r"jquery-3\.3\.1\.tgz is not jquery 3\.3\.1 as it was published"):
        bring(assets)


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    from dashboard_assets import bring

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"no npm on the PATH.*Node\.js.*--no-run"):
        bring(tmp_path / "assets")


def test_pages_are_written_over_pages_and_over_nothing_else(tmp_path):
    from dashboard_pages import check_folder

    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InvalidInputError, match="something else than a dashboard"):
        check_folder(tmp_path)
    with pytest.raises(InvalidInputError, match="not a folder"):
        check_folder(tmp_path / "thesis.tex")
    with pytest.raises(InvalidInputError, match=r"thesis\.tex is no folder to write to"):
        check_folder(tmp_path / "thesis.tex" / "pages")


def test_what_somebody_put_beside_the_pages_is_not_removed_with_them(tmp_path):
    from dashboard_pages import _mark, check_folder

    (tmp_path / "index.html").write_text("")
    _mark(tmp_path)
    check_folder(tmp_path)
    (tmp_path / ".git").mkdir()
    with pytest.raises(InvalidInputError, match=r"something else than a dashboard \(\.git\)"):
        check_folder(tmp_path)


def test_publishing_that_fails_leaves_the_pages_that_were_there(tmp_path, monkeypatch):
    import dashboard_assets
    from dashboard_pages import MARK, publish

    monkeypatch.setattr(dashboard_assets, "bring", lambda folder: None)
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / MARK).write_text("old")
    suite = SimpleNamespace(known=lambda: {"version": 2}, folder=tmp_path, results=tmp_path)
    with pytest.raises(InvalidInputError, match="could not publish"):
        publish(suite, pages, lambda *arguments: 1)
    assert [(file.name, file.read_text()) for file in pages.iterdir()] == [(MARK, "old")]


def test_publishing_without_results_is_an_error(tmp_path):
    from dashboard_pages import publish

    with pytest.raises(InvalidInputError, match="no results in .* yet"):
        publish(SimpleNamespace(known=dict, results=tmp_path), tmp_path, lambda *arguments: 0)


def test_a_port_in_use_is_an_error_where_it_was_asked_for(tmp_path):
    from dashboard_pages import check_port

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=f"--port {port} is in use; --port 0"):
            check_port(port)
    check_port(None)
    check_port(0)


def test_pages_are_served_to_this_machine(tmp_path):
    from dashboard_pages import _server

    (tmp_path / "index.html").write_text("here it is")
    with _server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/index.html", timeout=30) as answer:
                assert answer.read() == b"here it is"
                assert answer.headers["Cache-Control"] == "no-cache"
        finally:
            server.shutdown()
            thread.join()


# --- the command line -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bench", "("], "not a regular expression"),
        (["--steps", "-1"], "--steps -1"),
        (["--port", "70000"], "--port 70000"),
        (["--existing", sys.executable, "--commits", "HEAD"], "exclude each other"),
        (["--no-run", "--commits", "HEAD"], "exclude each other"),
        (["--plugin", "/nowhere"], "no such folder"),
        (["--html", str(ROOT / "docs")], "something else than a dashboard"),
    ],
)
def test_what_cannot_work_is_one_line_on_stderr_and_exit_code_2(arguments, words, capsys):
    pytest.importorskip("asv")
    import dashboard

    assert dashboard.main([*arguments, "--no-serve"] if "--port" not in arguments else arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.startswith("dashboard.py: ")
    assert said.err.count("\n") == 1


def test_uncommitted_changes_are_refused_where_somebody_would_think_them_measured(monkeypatch, capsys):
    import dashboard

    def check(*arguments):
        dashboard.check_changes(dashboard.parser().parse_args(arguments))
        return capsys.readouterr().out

    monkeypatch.setattr(dashboard.history, "changes", lambda repository: ["ruvattn/a.py"])
    with pytest.raises(InvalidInputError, match=r"1 file with changes that are in no commit \(ruvattn/a\.py\).*--allow-dirty"):
        check()
    with pytest.raises(InvalidInputError, match="entered as HEAD"):
        check("--existing", "python")
    for arguments in (["--commits", "HEAD"], ["--allow-dirty"]):
        assert "results are of commits, without them" in check(*arguments)
    monkeypatch.setattr(dashboard.history, "changes", lambda repository: [])
    assert check() == ""


def test_instruction_sets_are_the_active_one_unless_others_are_asked_for(monkeypatch):
    from dashboard import choose_isas

    from ruvattn.isa import active_isa

    monkeypatch.delenv("RUVATTN_BUILD_ISAS", raising=False)
    assert choose_isas(None) == active_isa()
    assert choose_isas("all") == ""
    assert choose_isas("scalar") == "scalar"
    with pytest.raises(InvalidInputError, match="'v9' is none of scalar"):
        choose_isas("scalar,v9")


# --- all of it --------------------------------------------------------------------------------------------------------------------


def test_a_third_party_variant_stands_beside_the_built_in_ones(repository, plugin, tmp_path, monkeypatch, assets, capsys):
    """Two benchmarks, one sample each, as the newest commit of a repository, measured with this interpreter, and a plugin that can't be imported."""
    pytest.importorskip("asv")
    pytest.importorskip("asv_runner")
    import dashboard
    import dashboard_assets
    import dashboard_pages
    import dashboard_suite
    import dashboard_table
    import history

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ASV_PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setattr(dashboard_assets, "bring", lambda folder: None)
    monkeypatch.setattr(dashboard_table, "FOLDER", repository / "asv_benchmarks")
    configure = dashboard_suite.Suite._configure
    monkeypatch.setattr(dashboard_suite.Suite, "_configure", lambda *arguments: configure(*arguments) | {"repo": str(repository)})
    place = tmp_path / "asv"
    place.mkdir()
    assets.rename(place / "assets")
    broken = shutil.copytree(plugin, tmp_path / "broken")
    (broken / "pyproject.toml").write_text('[project]\nname = "broken-x"\nversion = "1"\n')
    (broken / "benchmarks" / "rows.py").write_text("import broken_x\n")
    suite = dashboard_suite.Suite([dashboard_suite.read_plugin(path) for path in (plugin, broken)], quick=True, isas="", folder=place)
    suite.write(["main"])
    options = dashboard.parser().parse_args(["--quick", "--bench", r"time_sequence\('standard', 1"])
    commits, _ = history.select(repository, [])
    asv = dashboard.asv_runner(suite, commits[0])
    dashboard.measure(options, suite, commits, Path(sys.executable), asv)
    assert "broken-x's benchmarks can't be imported, and are left out of this run" in capsys.readouterr().out
    pages = dashboard_pages.publish(suite, tmp_path / "pages", asv)
    assert {path.name for path in pages.iterdir()} >= {"index.html", "variants.html", "vendor", "graphs"}
    table = (pages / "variants.html").read_text()
    assert re.search(r"demo_x\.rows\.Row.*third party", table)
    assert f"logs/benchmarks/{commits[0].hash}-broken-x.txt" in table
    assert "variants.Variant.time_sequence" in table
    assert "variants.html" in (pages / "index.html").read_text()
    assert loaded(table) == []
    assert set(json.loads((pages / "index.json").read_text())["benchmarks"]) == {"demo_x.rows.Row.time_sequence", "variants.Variant.time_sequence"}
    assert git(repository, "status", "--porcelain") == ""


def test_results_are_saved_one_by_one(tmp_path):
    """So that Ctrl-C loses none; in a process of its own, for it changes asv."""
    pytest.importorskip("asv")
    code = f"""if True:
        from pathlib import Path
        import asv_keep
        from asv.results import Results
        from asv.runner import BenchmarkResult
        asv_keep.setup()
        results = Results({{"machine": "m"}}, {{}}, "c" * 40, 0, "3.11", "env", {{}})
        results.load_data({str(tmp_path)!r})
        benchmark = {{"name": "a.time_b", "version": "1", "params": []}}
        results.add_result(benchmark, BenchmarkResult([1.5], [None], [None], 0, "", None))
        path = str(next(Path({str(tmp_path)!r}).rglob("*.json")))
        print(*Results.load(path).get_result_value("a.time_b", []))
    """
    run = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "1.5"
