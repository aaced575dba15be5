"""Final answers and their comparison: the rules of docs/outcome.md, and forms of many data sets."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_wire.answers import UnfinishedThoughtError, compare, final_answer, reference_answer
from capo_wire.answers.compare import UnreadableReferenceError, verify
from capo_wire.special_text import after_thoughts

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(.+)` \| `(.+)` \| (yes|no) \|$", re.M)
EXAMPLES = ROW.findall((ROOT / "docs" / "outcome.md").read_text(encoding="utf-8"))


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


@pytest.mark.parametrize(("reference", "response", "right"), EXAMPLES)
def test_documented_examples(reference: str, response: str, right: str) -> None:
    assert verify(response.replace("↵", "\n"), reference).right is (right == "yes")


def test_all_documented_examples_are_read() -> None:
    lines = (ROOT / "docs" / "outcome.md").read_text(encoding="utf-8").splitlines()
    assert len(EXAMPLES) == sum(line.endswith((" yes |", " no |")) for line in lines) > 35


# What data sets and models write: the reference, and a response that is right or wrong.
RIGHT = [
    (r"12\pi", boxed(r"12\pi")),
    (r"12\pi", r"so the area is 12\pi."),
    (r"12\pi", "#### 12π"),
    (r"2\sqrt{3}", boxed(r"2\sqrt3")),
    (r"2\sqrt{3}", boxed(r"\sqrt{12}")),
    (r"2\sqrt{3}", "#### 2*sqrt(3)"),
    (r"2\sqrt{3}", "The answer is 2√3."),
    (r"2\sqrt{3}", boxed("3.464102")),
    (r"\dfrac{9}{7}", boxed("9/7")),
    (r"\dfrac{9}{7}", boxed(r"1\frac{2}{7}")),
    (r"\frac 34", boxed("0.75")),
    (r"\frac 34", boxed(r"\frac{3}{4}")),
    (r"11\sqrt{5}+11", boxed(r"11+11\sqrt5")),
    (r"11\sqrt{5}+11", boxed(r"11(1+\sqrt{5})")),
    (r"\left(3,\frac{\pi}{2}\right)", boxed(r"(3,\pi/2)")),
    (r"\left(3,\frac{\pi}{2}\right)", r"the point is $\left(3,\frac{\pi}{2}\right)$."),
    (r"x \in [2,5)", boxed("[2,5)")),
    (r"x \in [2,5)", boxed(r"x\in[2,5)")),
    (r"x \in [2,5)", boxed(r"2\le x<5")),
    ("[2,5)", boxed(r"x\in[2,5)")),
    (r"7.41\%", boxed("7.41")),
    (r"7.41\%", "#### 7.41%"),
    (r"7.41\%", boxed("0.0741")),
    (r"12\frac{3}{5}", boxed("12.6")),
    (r"12\frac{3}{5}", boxed(r"\frac{63}{5}")),
    (r"12\frac{3}{5}", "#### 12 3/5"),
    (r"\$18.90", boxed("18.90")),
    (r"\$18.90", boxed(r"\$18.9")),
    ("$18.90", "It costs $18.90."),
    ("$18.90", "#### 18.9 dollars"),
    (r"\frac{270}7\text{ degrees}", boxed(r"\frac{270}{7}")),
    (r"\frac{270}7\text{ degrees}", boxed(r"\frac{270}{7}^\circ")),
    ("4210_{5}", boxed("4210_5")),
    ("4210_{5}", "#### 4210_5"),
    ("6,-2", boxed("-2, 6")),
    ("6,-2", boxed(r"6 \text{ and } -2")),
    ("6,-2", r"So \boxed{6} or \boxed{-2}."),
    ("6,-2", boxed(r"x = 6 \text{ or } x = -2")),
    ("6,-2", boxed(r"\{6,-2\}")),
    (r"\text{(C)}", boxed("C")),
    (r"\text{(C)}", boxed(r"\text{C}")),
    (r"\text{(C)}", "The answer is (C)."),
    (r"\text{(C)}", "**Answer: C**"),
    (r"\text{(C)}", boxed(r"(C)\ 12")),
    ("B", "So the answer is B."),
    ("B", "I would choose option B"),
    ("B", boxed(r"\textbf{(B)}\ 5")),
    ("B", "Answer: B. 12 apples"),
    ("B", "#### B"),
    ("B", "The correct answer is **B) Paris**."),
    ("B", "The correct option is (B)"),
    ("5:30", boxed("5:30")),
    ("5:30", boxed(r"5:30\text{ p.m.}")),
    ("5:30 P.M.", "The answer is 5:30 p.m."),
    (r"864 \mbox{ inches}^2", boxed("864")),
    (r"864 \mbox{ inches}^2", boxed(r"864\text{ in}^2")),
    (r"864 \mbox{ inches}^2", boxed(r"864 \text{ square inches}")),
    ("$2^{1009}$", boxed("2^{1009}")),
    ("$(1,8,19), (2,7,13), (4,5,7)$", boxed("(1,8,19),(2,7,13),(4,5,7)")),
    ("$(1,8,19), (2,7,13), (4,5,7)$", boxed("(4,5,7),(1,8,19),(2,7,13)")),
    ("$f(x)=2 x$ and $f(x)=-2x$", boxed(r"f(x)=2x \text{ and } f(x)=-2x")),
    ("$(2,1),(1,2)$", boxed("(1,2),(2,1)")),
    (r"$k=\pm 1$", boxed(r"\pm1")),
    (r"\pm 1", boxed("1,-1")),
    ("1,-1", boxed(r"\pm 1")),
    (r"$\frac{3 \sqrt{3}}{4}$", boxed(r"\frac{3\sqrt3}{4}")),
    (r"\log_{2} 3", boxed(r"\log_2 3")),
    (r"\log_{2} 3", boxed(r"\log_2(3)")),
    (r"\log_{2} 3", boxed(r"\frac{\ln 3}{\ln 2}")),
    (r"$\{x: x > 1\}$", boxed(r"\{x: x>1\}")),
    (r"(1,\infty)", boxed("x>1")),
    ("x>1", boxed(r"(1,\infty)")),
    (r"x \leq -2 \text{ or } x \geq 3", boxed(r"(-\infty,-2]\cup[3,\infty)")),
    (r"(-\infty,-2]\cup[3,\infty)", boxed(r"x\le-2 \text{ or } x\ge 3")),
    ("2^{n+1}-2", boxed("2(2^n-1)")),
    ("n(n+1)/2", boxed(r"\frac{n(n+1)}{2}")),
    ("n^2+n", boxed("n(n+1)")),
    (r"\binom{10}{3}", boxed("120")),
    ("10!", boxed("3628800")),
    ("2^{10}", boxed("1024")),
    ("1.6", boxed("1.6")),
    ("3.83e35", boxed(r"3.83 \times 10^{35}")),
    ("2.88e16", "#### 2.88e16"),
    ("6e13", boxed(r"6\times10^{13}")),
    (r"\arcsin{1.3}", boxed(r"\arcsin{1.3}")),
    (r"\arcsin(0.5)", boxed(r"\frac{\pi}{6}")),
    ("-7.5", boxed("-7.50")),
    ("I(0)=3", "#### I(0)=3"),
    (
        r"x_{0} \cos (\omega t)+\dot{x}_{0} \sin (\omega t) / \omega",
        boxed(r"x_{0} \cos (\omega t)+\dot{x}_{0} \sin (\omega t) / \omega"),
    ),
    (r"x_{0} \cos (\omega t)", boxed(r"x_0\cos(\omega t)")),
    (r"\frac{1}{s-a}", boxed(r"\frac{1}{s-a}")),
    ("e^{-t}", boxed("e^{-t}")),
    ("E=mc^2", boxed("E = mc^2")),
    (r"v=\sqrt{\frac{m g}{k}}", boxed(r"\sqrt{\frac{mg}{k}}")),
    ("025", boxed("25")),
    ("204", boxed("204")),
    ("073", boxed("73")),
    ("18 (dollars)", boxed("18")),
    ("18 (dollars)", "#### 18"),
    ("145.0", "#### 145"),
    ("145.0", boxed("145")),
    ("yes", "The answer is yes."),
    ("yes", boxed(r"\text{Yes}")),
    ("shortage", "The answer is shortage."),
    ("even", "#### even"),
    ("True", boxed(r"\text{true}")),
    ("3:2", boxed("3:2")),
    ("Evelyn", "The answer is Evelyn."),
    (r"\text{Evelyn}", boxed("Evelyn")),
    (r"\text{no solution}", boxed(r"\text{No solution}")),
    ("all real numbers except -4", boxed(r"\text{all real numbers except }-4")),
    (
        r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
        boxed(r"\begin{bmatrix}-1&0\\0&-1\end{bmatrix}"),
    ),
    (
        r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
        boxed(r"\begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}"),
    ),
    ("1,234", boxed("1234")),
    ("100, 200", boxed("100,200")),
    ("1{,}000{,}000", boxed("10^6")),
    (r"10,\!080", boxed("10080")),
    ("1 000 000", boxed("1000000")),
    ("y = 2x + 3", boxed("y=2x+3")),
    ("y = 2x + 3", boxed("2x+3")),
    ("y=2x+3", boxed("y-2x=3")),
    ("x^2+y^2=25", boxed("x^2+y^2=25")),
    ("x=5", boxed("5")),
    ("5", boxed("x=5")),
    ("x=5, y=3", boxed("(5,3)")),
    ("(5,3)", boxed("x=5,y=3")),
    ("(5,3)", boxed("(x,y)=(5,3)")),
    ("3x-y+13=0", boxed("y=3x+13")),
    ("ax+b", boxed("a x+b")),
    ("(a+5)(b+2)", boxed("(b+2)(a+5)")),
    ("ab", boxed("ba")),
    (r"\cot x", boxed(r"\cot(x)")),
    (r"\cot x", boxed(r"\frac{\cos x}{\sin x}")),
    ("4t", boxed("4t")),
    ("2k+2", boxed("2(k+1)")),
    ("6+9i", boxed("9i+6")),
    ("-2 + 7i", "The answer is $-2+7i$."),
    ("6+9i", "Hence z = 6 + 9i."),
    (r"1 \pm \sqrt{19}", boxed(r"1+\sqrt{19}, 1-\sqrt{19}")),
    (r"\{1\pm\sqrt{5},-2\}", boxed(r"-2,1+\sqrt5,1-\sqrt5")),
    (".0000672", boxed("0.0000672")),
    (".0000672", boxed(r"6.72\times10^{-5}")),
    (r"137 \frac{1}{2}", boxed("137.5")),
    (r"1\frac{4}{5}", boxed("1.8")),
    (r"145^\circ", boxed("145")),
    (r"145^\circ", boxed(r"145^{\circ}")),
    ("145", boxed("145°")),
    (r"(0,9) \cup (9,36)", boxed(r"(0,9)\cup(9,36)")),
    (r"(-\sqrt{3}, \sqrt{3})", boxed(r"(-\sqrt3,\sqrt3)")),
    (r"\infty", boxed(r"\infty")),
    (r"\frac{20000}{\pi}", boxed(r"\frac{20000}{\pi}")),
    (r"288 \pi", boxed(r"288\pi\text{ cm}^3")),
    ("10^{-8}", boxed(r"1\times 10^{-8}")),
    ("0.1", boxed(r"\frac{1}{10}")),
    ("1/3", boxed("0.3333333")),
    (r"\sin 30^\circ", boxed(r"\frac12")),
    (r"\frac{\sqrt{3}}{3}", boxed(r"\frac{1}{\sqrt{3}}")),
    (r"\frac{35}{64}", boxed("0.546875")),
    ("x^3+3x-6", boxed("x^3+3x-6")),
    (r"\frac{11+9a}{20}", boxed(r"\frac{9a+11}{20}")),
    ("42", "**Final Answer:** 42"),
    ("42", "**Final Answer**\n\n42"),
    ("42", "## Final Answer\n\nThe answer is 42."),
    ("42", "### Answer\n42"),
    ("42", "Final answer: $42$"),
    ("42", r"The final answer is: $\boxed{42}$. I hope it is correct."),
    ("42", "Final Answer: The final answer is $42$. I hope it is correct."),
    ("42", r"\[\boxed{42}\]"),
    ("42", r"$$\boxed{ 42 }$$"),
    ("42", r"\boxed 42"),
    ("42", "Answer: 42 apples are left."),
    ("42", "#### 42\n\nLet me verify: 40 + 2 = 42. Check 41 < 42 < 43."),
    ("42", "#### The answer is 42"),
    ("42", "**#### 42**"),
    ("42", "A: 42"),
    ("42", "答案是42。"),
    ("42", "答案：42"),
    ("42", 'So she has "42" apples.'),
    ("42", "The answer is '42'."),
    ("42", "answer = 42"),
    ("42", "1. 42 is first\n2. So the total is 42."),
    ("43", "Step 1: 40\nStep 2: 43."),
    ("42", r"So the answer is \boxed{41}, no wait, \boxed{42}."),
    ("42", r"It is \boxed{42}, not \boxed{41}."),
    ("42", r"\boxed{42}. The format is \boxed{}."),
    ("42", r"\boxed{42}. I used \boxed{\text{answer}}."),
    ("42", r"Put it in \boxed{your answer}: 42"),
    ("5", "<think>it is 5</think>\n\n5"),
    ("5", r"[THINK]5[/THINK]\boxed{5}"),
    (
        "5",
        r"<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>\boxed{5}",
    ),
    ("5", "5<|im_end|>"),
    ("5", r"\boxed{5}</s>"),
    ("3, 4", r"\boxed{3} or \boxed{4}"),
    ("1, 2", "(a) \\boxed{1}\n(b) \\boxed{2}"),
    ("1, 2", "- $x = \\boxed{1}$\n- $y = \\boxed{2}$"),
    ("72", "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72"),
    ("1000", "She has $1,000."),
    ("1000", "#### 1,000.00"),
    ("0.5", "#### 1/2"),
    ("10", "#### 10."),
    ("-3", "#### -3"),
    ("75", "75%"),
    (r"75\%", "#### 75%"),
    ("2/3", boxed(r"\tfrac23")),
    (r"25 \text{ cm}", boxed("25")),
    ("25", boxed(r"25\,\text{cm}^2")),
    ("25 m/s", boxed("25")),
    ("25", boxed(r"25~\mathrm{m/s}")),
    ("3 hours", boxed("3")),
    ("3 hours 20 minutes", boxed(r"3 \text{ hours } 20 \text{ minutes}")),
    ("A, B", boxed("B, A")),
    ("abc", boxed("abc")),
    (r"-\frac{1}{2}", boxed(r"\frac{-1}{2}")),
    (r"-\frac{1}{2}", boxed(r"\frac{1}{-2}")),
    (r"-\frac{1}{2}", boxed("-0.5")),
    (r"\frac{a}{b}", boxed("a/b")),
    (r"3\sqrt{13}", r"#### 3\sqrt{13}"),
    (r"\left\{1,2\right\}", boxed("1,2")),
    ("[1,2]", boxed("[1,2]")),
    (r"2+\frac{1}{3}", boxed(r"\frac{7}{3}")),
    (r"20\%", boxed(r"\frac15")),
    ("x<3", boxed("3>x")),
    ("-1<x<2", boxed("(-1,2)")),
    ("-1 < x < 2", boxed("-1<x<2")),
    # Habits of models and of data sets that other graders' users reported.
    ("1000", "1 000"),
    ("1000.99", "it is 1,000.99€"),
    ("35", "boxed{35}"),
    ("35", r"\boxed{35\text{ kg}\cdot\text{m}/\text{s}^2}"),
    ("35", r"\boxed{35\,\Omega}"),
    ("31", r"\boxed{31°C}"),
    ("35", r"\boxed{\text{USD }35}"),
    ("5", "答案为$5$元。"),
    ("12/5", "+2 2/5"),
    ("5/4", "It takes 1 and 1/4 hours."),
    ("3 million", r"\boxed{3{,}000{,}000}"),
    (r"0.\overline{12}", r"\boxed{\frac{4}{33}}"),
    ("1st", r"\boxed{1}"),
    ("3:2", r"\boxed{3 \text{ to } 2}"),
    (
        r"\begin{pmatrix}0 & 0 \\0 & 0\end{pmatrix}",
        r"It is $ \begin{bmatrix}0 & 0 \\ 0 & 0\end{bmatrix} $",
    ),
    (
        r"\begin{pmatrix}1 & 2 \\3 & 4\end{pmatrix}",
        r"\boxed{\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]}",
    ),
    (r"\tan^2(y)+1", r"\boxed{\sec^2(y)}"),
    ("34", "Final Answer: The largest $n$ is 34."),
    ("34", "Answer: Sam has 34 apples."),
    ("34", "The answer is that there are 34 apples."),
    ("34", "The answer is approximately 34."),
    ("34", "The answer is not 33, it is 34."),
    ("34", "34 is the final answer. I used 3 steps."),
    ("34", "It's 34!"),
    ("34", "The answer is 34 (40 - 6)."),
    ("34", r"\textbf{Answer:} $34$"),
    ("34", "<b>Answer:</b> 34"),
    ("34", "答：34"),
    ("34", "Final answer: *34*."),
    ("34", r"\boxed{\bf 34}"),
    ("34", r"\boxed{\textcolor{blue}{34}}"),
    ("34", r"\boxed{34\,}"),
    ("34", r"\boxed{\underline{34}}"),
    ("34", r"\boxed{\text{Answer: } 34}"),
    ("34", r"\boxed{\text{34 apples}}"),
    ("34", r"\boxed{\approx 34}"),
    ("34", r"\boxed{ \begin{aligned} x &= 34 \end{aligned} }"),
    ("34", "The answer is 34 ✅"),
    ("34", "Answer: 34\u200b"),
    ("34", "<answer>34</answer>"),
    ("34", "<think>35</think><answer>34</answer> after 3 checks"),
    ("x^2+1", "<answer>x^2+1</answer>"),
    ("34", "<THINK>35</THINK>34"),
    ("34", "analysis35assistantfinal34"),
    ("34", "#### 34<|im_end|>\n<|im_start|>user\nAnd 2+3?"),
    ("34", "#### 34\n### Instruction: compute 2+3\n### Response: #### 5"),
    ("34", "The answer is 34.\n\nQuestion: What is 2+3?\n\nThe answer is 5."),
    ("34", "#### 1. Multiply\n\n12 * 8 = 96\n\n#### 2. Subtract\n\n96 - 62 = 34"),
    (r"1-\frac{1}{\mathrm{e}}", r"\boxed{\frac{e-1}{e}}"),
    ("x^2+1", "#### x**2 + 1"),
    ("2+3i", "#### 2 + 3*I"),
    (r"3\sqrt[3]{2}", "#### 3*2**(1/3)"),
    ("2", r"\boxed{\sqrt(4)}"),
    (r"\ln 2", r"\boxed{\log_e 2}"),
    (r"\arcsin x", r"\boxed{\sin^{-1}(x)}"),
    (r"e^{i\pi/3}", r"\boxed{\frac{1+i\sqrt3}{2}}"),
    ("4210_{5}", r"\boxed{4210_{\text{five}}}"),
    (r"n \equiv 1 \pmod{4}", r"\boxed{n\equiv 1 \mod 4}"),
    ("[2,5)", "The domain is [2,5)"),
    ("[2,5)", r"\boxed{\{x \mid 2\le x<5\}}"),
    (r"(-\infty,0)\cup(0,\infty)", r"\boxed{(-\infty, 0)\bigcup(0, +\infty)}"),
    (r"(-\infty,\infty)", r"\boxed{\mathbb{R}}"),
    ("x<3", "The solution is x < 3."),
    ("1,-2", r"\[\boxed{1} \quad \text{and} \quad \boxed{-2}\]"),
    ("5; 7", "**Answer:** $5$; $7$"),
    (r"(\pm 1, 0)", r"\boxed{(1,0),(-1,0)}"),
    ("(x, y)=(3,2)", r"\boxed{x=3,y=2}"),
    ("5,3", r"\boxed{\begin{cases} x=5\\ y=3\end{cases}}"),
    (r"4 \text{ (minimum)}, 9 \text{ (maximum)}", r"\boxed{4, 9}"),
    ("3,5", r"x 或: \boxed{3或5}"),
    ("A", "A"),
    ("A", "**A**"),
    ("E", "E: a polygenic risk score"),
    ("D", "D is correct."),
    ("D", "I'd go with D."),
    ("D", "Answer D"),
    ("D", "故选：D．"),
    ("B", r"\boxed{\text{Option B}}"),
    ("A", "Option (A) is correct."),
    ("y-axis", r"\boxed{\text{y-axis}}"),
    ("all real numbers except -4", "The answer is all real numbers except -4."),
    ("7!", "**Answer:** 7!"),
    ("99!", "#### 99!"),
    ("SRAC=LRAC", r"\boxed{SRAC=LRAC}"),
    ("5", r"\boxed{5 \text{ sec}}"),
    ("5", r"\boxed{5\,\mu\text{m}}"),
    ("-12", "The answer is minus 12."),
    ("21", "### 21"),
    ("21", "∴ 21"),
    ("2", "Thus $2$ is our answer."),
    (r"\infty", "#### infinity"),
    ("35", "35 USD"),
    (r"\binom{10}{3}", r"\boxed{{10 \choose 3}}"),
    ("(0,0),(1,0),(-1,0)", r"\boxed{(0,0), (\pm 1, 0)}"),
    ("2.6666667", r"\boxed{2.666667}"),
    (r"\log_3 (x+1)", r"#### $\log_3 (x+1)$"),
    ("5:30", r"\boxed{5{:}30}"),
    ("3:2", r"\boxed{6:4}"),
    ("7", "[ANSWER]7[/ANSWER]"),
    ("7", "<think>6</think><answer>7"),
    ("7", "The answer is 7 — as expected."),
    ("7", "The answer is 7 (14 divided by 2)."),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix}}"),
    ("7", r"\boxed{ and then \boxed{7}"),
]

WRONG = [
    (r"12\pi", boxed("12")),
    ("12", r"so the area is $12\pi$."),
    ("12", "the area is 12π"),
    (r"2\sqrt{3}", boxed("2")),
    (r"2\sqrt{3}", boxed("3.46")),
    (r"\dfrac{9}{7}", boxed("9")),
    (r"\frac 34", boxed("3")),
    (r"\frac 34", boxed("34")),
    (r"11\sqrt{5}+11", boxed("11")),
    (r"11\sqrt{5}+11", boxed(r"11\sqrt5")),
    (r"\left(3,\frac{\pi}{2}\right)", boxed("3")),
    (r"x \in [2,5)", boxed("[2,5]")),
    (r"x \in [2,5)", boxed("2")),
    (r"7.41\%", boxed("7")),
    (r"7.41\%", boxed("741")),
    (r"12\frac{3}{5}", boxed("12")),
    (r"12\frac{3}{5}", boxed(r"\frac{36}{5}")),
    (r"\$18.90", boxed("18")),
    (r"\frac{270}7\text{ degrees}", boxed("270")),
    ("4210_{5}", boxed("4210")),
    ("6,-2", boxed("6")),
    (r"\text{(C)}", boxed("B")),
    ("B", "A is wrong because... so the answer is C"),
    ("5:30", boxed("5")),
    ("5:30 p.m.", boxed("5:30 a.m.")),
    (r"864 \mbox{ inches}^2", boxed("86")),
    ("$2^{1009}$", boxed("2^{1008}")),
    ("$2^{1009}$", boxed("2")),
    ("$(1,8,19), (2,7,13), (4,5,7)$", boxed("(1,8,19)")),
    ("$f(x)=2 x$ and $f(x)=-2x$", boxed("f(x)=2x")),
    ("$(2,1)$", boxed("(1,2)")),
    (r"$k=\pm 1$", boxed("1")),
    (r"(-\infty,-2]\cup[3,\infty)", boxed(r"(-\infty,-2]")),
    ("2^{n+1}-2", boxed("2^{n+1}")),
    ("3.83e35", boxed("3.83")),
    (r"\frac{1}{s-a}", boxed("1")),
    ("e^{-t}", boxed("e^{t}")),
    ("18 (dollars)", "#### 8"),
    ("no", boxed("Yes")),
    ("odd", boxed(r"\text{even}")),
    ("3:2", boxed("3")),
    ("all real numbers except -4", boxed("-4")),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", boxed(r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}")),
    ("1,234", boxed("1")),
    ("y=2x+3", boxed("y=3")),
    ("y=2x+3", boxed("3")),
    ("x^2+y^2=25", boxed("25")),
    ("x=5,y=3", boxed("x=3,y=5")),
    ("(a+5)(b+2)", boxed("(a+5)")),
    ("4t", boxed("4")),
    ("2k+2", boxed("2")),
    ("6+9i", boxed("6")),
    ("6", "Hence z = 6 + 9i"),
    (r"1 \pm \sqrt{19}", boxed(r"1+\sqrt{19}")),
    (r"\{1\pm\sqrt{5},-2\}", boxed("-2")),
    (".0000672", boxed("0.0000671")),
    (r"1\frac{4}{5}", boxed(r"\frac{4}{5}")),
    (r"(0,9) \cup (9,36)", boxed("(0,36)")),
    (r"(0,9) \cup (9,36)", boxed("(0,9)")),
    (r"\frac{20000}{\pi}", boxed("20000")),
    (r"8 \pi", boxed("8")),
    ("10^{-8}", boxed("10^{-9}")),
    ("1/3", boxed("0.33")),
    (r"\sqrt{51}", boxed("7.14")),
    ("x^3+3x-6", boxed("x^3+3x")),
    ("15x - 80", boxed("15x")),
    ("41", r"So the answer is \boxed{41}, no wait, \boxed{42}."),
    ("42", r"\boxed{42"),
    ("5", "<think>it is 5</think>"),
    ("5", "it is 5</think>The answer is 6"),
    ("5", r"<|channel|>analysis<|message|>maybe \boxed{5}<|end|>"),
    ("3", r"\boxed{3} or \boxed{4}"),
    ("4", r"\boxed{3} or \boxed{4}"),
    ("3", "#### -3"),
    ("5", "5 apples and 3 pears"),
    ("3 hours 20 minutes", boxed("3")),
    ("A", boxed("A and B")),
    (r"\frac{0}{0}", boxed("5")),
    ("1", ""),
    ("1", "   "),
    ("x<3", boxed(r"x\leq 3")),
    ("-1 < x < 2", boxed(r"-1<x\le2")),
    # Parts, hedges and look-alikes.
    ("1 1/2", r"\boxed{11/2}"),
    ("11/2", r"\boxed{1 1/2}"),
    ("12", r"\boxed{1 2}"),
    ("357", r"\boxed{3 5 7}"),
    (r"50\%", r"\boxed{0.5\%}"),
    (r"5\%", r"\boxed{500\%}"),
    ("1234567.89", r"\boxed{1234567.12}"),
    ("16386.17", r"\boxed{16386.18}"),
    ("1000001", r"\boxed{1000000.0}"),
    ("12345678", r"\boxed{12345678.9}"),
    ("A", r"\boxed{(A) or (B)}"),
    ("A", "The answer is (A) or (B)"),
    ("A", r"\boxed{A: no, B: yes}"),
    ("A", r"\boxed{\overline{A}}"),
    ("B", r"\boxed{BB}"),
    ("I", r"\boxed{II}"),
    ("6xyz", r"\boxed{6}"),
    ("5", r"\boxed{5abc}"),
    ("5", r"\boxed{5 million}"),
    ("5", r"\boxed{5\text{ dozen}}"),
    ("5", r"\boxed{5 squared}"),
    ("5", r"\boxed{5 halves}"),
    ("3 dozen", r"\boxed{3}"),
    ("2", r"\boxed{2\mathrm{e}}"),
    (r"3\mathbf{v}", r"\boxed{3}"),
    (r"6\operatorname{sgn}(x)", r"\boxed{6}"),
    ("4C", r"\boxed{4}"),
    ("7 = 11a+c", r"\boxed{11a+c}"),
    (r"\gcd(a,b)", r"\boxed{\gcd(a,c)}"),
    (r"\gamma", r"\boxed{\Gamma}"),
    (r"\frac{1}{2004!}", r"\boxed{\frac{1}{2006!}}"),
    (r"1+\frac{1}{2^{2020}}", r"\boxed{1+\frac{1}{2^{2019}}}"),
    (r"\frac{1}{e^{1000}}", r"\boxed{\frac{1}{e^{1001}}}"),
    ("20", "(10, 20)"),
    ("20", "10, 20"),
    ("5", "Answer: 5; 6"),
    ("2", r"It is not \boxed{2}."),
    ("2", r"The answer can't be \boxed{2}"),
    ("72", r"<|begin_of_thought|>\boxed{72}"),
    ("96", "Answer: We compute 12 * 8 = 96 first.\n\nThen 96 - 75 = 21."),
    ("C", r"Let C be a point. So \boxed{5}."),
    ("7", "The answer is not 7."),
    ("7", "The answer cannot be 7."),
    ("12", "The answer is at least 12."),
    ("12", "The answer is more than 12."),
    ("12", "The answer is minus 12."),
    ("7", "#### not 7"),
    (r"5\text{pi}", boxed("5")),
    (r"5\mathrm{\pi}", boxed("5")),
    (r"5\text{ π}", boxed("5")),
    ("7", "The answer is 8. 7 is wrong."),
    ("7", "The answer is 8 and 7 is wrong."),
    ("1:2:3", r"\boxed{1:3:2}"),
    (r"2\mathrm{AB}", r"\boxed{2}"),
    (".0000001", r"\boxed{0.0000002}"),
]


@pytest.mark.parametrize(("reference", "response"), RIGHT)
def test_right_answers(reference: str, response: str) -> None:
    assert verify(response, reference).right


@pytest.mark.parametrize(("reference", "response"), WRONG)
def test_wrong_answers(reference: str, response: str) -> None:
    assert not verify(response, reference).right


# Answers that say nothing, or everything.
@pytest.mark.parametrize("reference", ["5", "x=5", "(1,2)", "[2,5)", "x>1", "1,2", "A", "Evelyn"])
@pytest.mark.parametrize(
    "answer",
    [
        "x=x",
        "0=0",
        "{}",
        "\\{\\}",
        "\\frac{0}{0}",
        "\\infty-\\infty",
        "?",
        "*",
        "\\mathbb{R}",
        "A,B,C,D,E,F,G,H,I,J",
        "(-\\infty,\\infty)",
        "\\text{any}",
        "1,2,3,4,5",
        "nan",
        "\\pm 5",
        "5 \\text{ or } 6",
        "5 or not 5",
        "5/6",
        "[5",
        "\\lbrace 5",
        "x=5, x=6",
        "5!",
        "x>1 \\text{ or } x \\le 1",
        "5 apples or 6 apples",
        "\\",
        "\\$",
    ],
)
def test_empty_and_hedged_answers_are_wrong(reference: str, answer: str) -> None:
    assert not verify(boxed(answer), reference).right


@pytest.mark.parametrize(
    "reference",
    [
        "",
        " ",
        "proof",
        "No answer given.",
        "see above",
        "See solution.",
        "N/A",
        "-",
        "...",
        "\\boxed{}",
        "{",
        "\\frac{",
        "We prove it by induction on n.",
        "Janet makes 18 dollars.",
        "Let x be 5.\nThen it follows.",
    ],
)
def test_references_without_an_answer_are_refused(reference: str) -> None:
    assert reference_answer(reference) is None
    with pytest.raises(UnreadableReferenceError):
        verify("\\boxed{5}", reference)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no_answer"),
        ("I do not know.", "no_answer"),
        ("so \\boxed{5", "no_answer"),
        ("<think>\\boxed{5}", "unfinished_thought"),
        ("[THINK]It is 5", "unfinished_thought"),
        ("<|channel|>analysis<|message|>\\boxed{5}", "unfinished_thought"),
        ("\\boxed{\\frac{\\sqrt{}}", "no_answer"),
        ("\\boxed{6}", None),
    ],
)
def test_what_could_not_be_checked_differs_from_wrong(response: str, reason: str | None) -> None:
    verdict = verify(response, "5")
    assert not verdict.right and verdict.reason == reason
    assert (verdict.detail is None) == (reason is None)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<seed:think>", "</seed:think>"),
        ("<longcat_think>", "</longcat_think>"),
        ("<analysis>", "</analysis>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
        ("<unused94>", "<unused95>"),
        ("<|channel>", "<channel|>"),
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        (
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_thoughts_are_cut_as_the_service_cuts_those_of_judges(begin: str, end: str) -> None:
    text = f"{begin}It is \\boxed{{1}}.{end}It is \\boxed{{2}}."
    assert final_answer(text) == "2"
    assert after_thoughts(text) == "It is \\boxed{2}."
    without_opening = text[len(begin) :]
    assert final_answer(without_opening) == "2"
    assert after_thoughts(text.partition(end)[0]) is None
    with pytest.raises(UnfinishedThoughtError):
        final_answer(text.partition(end)[0])


def test_a_comparison_that_fails_is_told() -> None:
    verdict = verify(boxed("5"), "\\frac{0}{0}")
    assert not verdict.right and verdict.reason == "comparison_failed"
    assert "nan" in str(verdict.detail)


def test_an_answer_that_is_no_mathematics_is_told() -> None:
    verdict = verify(boxed("\\frac{x}{"[:-1] + "^^_"), "x+1")
    assert verdict.reason == "unreadable_answer" and "cannot be parsed" in str(verdict.detail)


# ------------------------------------------------------------------------------- properties

numbers = st.integers(-999, 999)
naturals = st.integers(2, 99)
# A reference that begins with a number and says more, and that number.
longer = st.one_of(
    st.builds(lambda a: (f"{a}\\pi", a), naturals),
    st.builds(lambda a, b: (f"{a}\\sqrt{{{b}}}", a), naturals, st.sampled_from([2, 3, 5, 7])),
    st.builds(lambda a, b: (f"{a}+{b}\\sqrt{{3}}", a), numbers, naturals),
    st.builds(lambda a, b: (f"{a}\\frac{{1}}{{{b}}}", a), naturals, naturals),
    st.builds(lambda a, b: (f"{a},{b}", a), numbers, naturals).filter(lambda r: len(r[0]) > 2),
    st.builds(lambda a, b: (f"{a}x+{b}", a), naturals, naturals),
    st.builds(lambda a, b: (f"{a}+{b}i", a), numbers, naturals),
    st.builds(lambda a, b: (f"{a}_{{{b}}}", a), naturals, st.integers(2, 9)),
    st.builds(lambda a, b: (f"{a}^{{{b}}}", a), naturals, st.integers(2, 9)),
    st.builds(lambda a, b: (f"{a}:{b:02d}", a), st.integers(1, 12), st.integers(1, 59)),
)
dialects = st.sampled_from(
    [
        "\\boxed{%s}",
        "So $x$ is $\\boxed{%s}$.",
        "\\[\\boxed{%s}\\]",
        "Thus \\fbox{%s}",
        "#### %s",
        "**Final Answer**\n\n\\boxed{%s}",
        "Final Answer: %s",
        "**Answer:** $%s$",
        "The answer is $%s$.",
        "The answer is \\(%s\\), as required.",
        "<think>It may be 7.</think>\n\\boxed{%s}",
        "Some 12 steps.\n\n#### %s\n\nThis is right, as 3 checks confirm.",
        "Hence it is $%s$.",
    ]
)


@settings(max_examples=300)
@given(longer, dialects)
def test_an_answer_is_itself_in_every_dialect_and_its_beginning_is_not(
    example: tuple[str, int], dialect: str
) -> None:
    reference, beginning = example
    assert verify(dialect % reference, reference).right
    assert not verify(dialect % beginning, reference).right
    assert not verify(dialect % reference, str(beginning)).right


@given(numbers, numbers, dialects)
def test_numbers_are_right_exactly_if_they_are_equal(a: int, b: int, dialect: str) -> None:
    assert verify(dialect % a, str(b)).right is (a == b)


@given(st.lists(numbers, min_size=2, max_size=5, unique=True), st.randoms())
def test_lists_have_no_order_and_tuples_have_one(items: list[int], order: object) -> None:
    mixed = list(items)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    text, other = ", ".join(map(str, items)), ", ".join(map(str, mixed))
    assert verify(boxed(other), text).right
    assert verify(boxed(f"({other})"), f"({text})").right is (mixed == items)
    assert not verify(boxed(", ".join(map(str, items[:-1]))), text).right


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    with suppress(UnfinishedThoughtError):
        final_answer(text)
    reference = reference_answer(text)
    if reference is not None:
        assert compare.equivalent(reference, reference)


@given(st.text(alphabet="\\boxed{}$#answer: 0123,.()\n", max_size=200))
def test_any_markup_is_read_without_an_error(text: str) -> None:
    final_answer(text)
    reference_answer(text)
