"""Files as users have them: links, the same name twice, and files that change while they are loaded."""

import os

from tests.e2e import Project, cell, prompts
from tests.model_server import ModelServer


def test_files_of_one_name_keep_apart(project: Project, server: ModelServer) -> None:
    for year in ("2023", "2024"):
        (project.folder / year).mkdir()
        (project.folder / year / "notes.txt").write_text(f"notes of {year}")
    server.default("root", cell("FINAL({name: files[name] for name in files})"))

    ended = project.ask("What is in them?", "-f", "2023/notes.txt", "-f", "2024/notes.txt")

    assert ended.json == {"2023/notes.txt": "notes of 2023", "2024/notes.txt": "notes of 2024"}


def test_a_link_is_what_it_leads_to_and_a_folder_does_not_lead_out(
    project: Project, server: ModelServer
) -> None:
    secret = project.folder.parent / "secret.txt"
    secret.write_text("outside")
    folder = project.folder / "data"
    folder.mkdir()
    (folder / "real.txt").write_text("inside")
    (folder / "out.txt").symlink_to(secret)
    (project.folder / "link.txt").symlink_to(folder / "real.txt")
    (project.folder / "linked").symlink_to(folder)
    server.reply(
        "root",
        cell('try:\n    load_file("data/out.txt")\nexcept PermissionError as e:\n    print(e)'),
        cell("FINAL([sorted(files), context])"),
    )

    ended = project.ask("What is in it?", "-f", "link.txt", "-f", "linked")

    assert ended.json == [["link.txt"], "inside"]
    assert "the user has not agreed to it" in prompts(server)[1]


def test_a_log_that_grows_goes_on_working_and_the_next_question_sees_more(
    project: Project, server: ModelServer
) -> None:
    log = project.write("app.log", "one\n" * 1000)

    def answer(asked: object) -> str:
        with log.open("a") as file:
            file.write("two\n")
        return cell("FINAL([len(context.splitlines()), count('two')])")

    server.default("root", answer)
    assert project.ask("How many?", "-f", "app.log").json == [1000, 0]
    second = project.ask("And now?")
    assert second.json == [1001, 1]
    assert "has grown on disk" in second.err


def test_a_file_that_is_replaced_in_mid_turn_stays_what_it_was_until_the_next_question(
    project: Project, server: ModelServer
) -> None:
    path = project.write("a.txt", "before")

    def answer(asked: object) -> str:
        other = project.write("other.txt", "after")
        os.replace(other, path)
        return cell("FINAL(open('/data/0/a.txt').read() + context)")

    server.default("root", answer)
    assert project.ask("What is in it?", "-f", "a.txt").answer == "beforebefore\n"
    second = project.ask("And now?")
    assert second.answer == "afterafter\n"
    assert "was replaced on disk" in second.err


def test_a_file_that_is_deleted_is_left_out_of_the_next_question(
    project: Project, server: ModelServer
) -> None:
    path = project.write("a.txt", "still here")
    project.write("b.txt", "b")

    def answer(asked: object) -> str:
        path.unlink(missing_ok=True)
        return cell("FINAL([context, sorted(files)])")

    server.default("root", answer)
    first = project.ask("What is in it?", "-f", "a.txt", "-f", "b.txt")
    assert first.json == ["still here", ["a.txt", "b.txt"]]
    second = project.ask("And now?")
    assert second.json == ["b", ["b.txt"]]
    assert "'a.txt' is left out" in second.err


def test_a_large_file_that_shrinks_under_the_code_is_an_error_it_can_read(
    project: Project, server: ModelServer
) -> None:
    project.configure(sandbox={"memory": "256m"})
    path = project.write("big.log", "a line of text\n" * 3_000_000)

    def shrink(asked: object) -> str:
        os.truncate(path, 1000)
        return cell("try:\n    context.count('zzz')\nexcept OSError as e:\n    print('sorry:', e)")

    server.reply("root", cell("type(context).__name__, context[:6]"), shrink, cell("FINAL(1 + 1)"))
    ended = project.ask("How many?", "-f", "big.log")

    assert ended.answer == "2\n"
    assert "('Document', 'a line')" in prompts(server)[1]
    assert "sorry: [Errno 5] 'big.log' has become shorter" in prompts(server)[2]


def test_paths_in_the_question_are_loaded_whatever_they_hold(project: Project, server: ModelServer) -> None:
    folder = project.folder / "two words"
    folder.mkdir()
    (folder / "a.csv").write_text("n\n1\n2\n")
    project.write("b.txt", "b")
    server.default("root", cell("FINAL(sorted(files))"))

    ended = project.ask('Compare @b.txt with "two words", please.')

    assert ended.json == ["b.txt", "two words/a.csv"]
