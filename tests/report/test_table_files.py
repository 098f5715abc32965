import pandas as pd

from bench.report.sections import as_text, to_latex, write_tables


def test_values_as_a_reader_takes_them_in():
    table = pd.DataFrame({"a": [1234.5678, None], "b": [1, 2], "c": ["x", None]})
    assert as_text(table).to_numpy().tolist() == [["1235", "1", "x"], ["", "2", ""]]


def test_latex_by_hand():
    assert to_latex(pd.DataFrame({"a_b": ["5%"], "c": ["x & y"]})) == (
        "\\begin{tabular}{ll}\n\\toprule\na\\_b & c \\\\\n\\midrule\n5\\% & x \\& y \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_three_files_of_a_table(tmp_path):
    paths = write_tables({"t": pd.DataFrame({"a": [0.123456], "b": [None]})}, tmp_path / "new" / "tables")
    assert paths == [tmp_path / "new" / "tables" / "t.csv"]
    assert paths[0].read_text() == "a,b\n0.123456,\n"
    assert "| 0.1235 |" in paths[0].with_suffix(".md").read_text()
    assert "0.1235 &" in paths[0].with_suffix(".tex").read_text()


def test_an_empty_table_keeps_its_columns(tmp_path):
    (path,) = write_tables({"t": pd.DataFrame(columns=["a", "b"])}, tmp_path)
    assert path.read_text() == "a,b\n"
    assert "a & b" in path.with_suffix(".tex").read_text()
