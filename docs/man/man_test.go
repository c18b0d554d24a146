// Package man holds the manual pages, and the test that they say what the programs' help says.
package man

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/launch"
)

// TestPages holds options, commands, variables and exit codes of each page against the help, both ways.
func TestPages(t *testing.T) {
	var help strings.Builder
	if err := launch.WriteHelp(&help); err != nil {
		t.Fatal(err)
	}
	for name, help := range map[string]string{"syd.1": help.String(), "syd-tor.1": config.Help} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			page := string(text)
			same(t, "options", find(page, `(?m)^\.It Fl (?:. , )?-([a-z-]+)`), find(help, `(?m)^ +(?:-., )?--([a-z-]+)`))
			same(t, "short options", find(page, `(?m)^\.It Fl (.) `), find(help, `(?m)^ +-(.), --`))
			same(t, "variables", find(page, `(?m)^\.It Ev (\S+)`), find(help, `(?m)^  (SYD_\S+)`))

			var codes strings.Builder
			for _, row := range exit.Table {
				fmt.Fprintf(&codes, ".It %d\n%s\n", row.Code, row.Text)
			}
			contains(t, page, codes.String())
			if name == "syd.1" {
				var commands strings.Builder
				for _, row := range launch.Commands {
					fmt.Fprintf(&commands, ".It Ic %s%v Ns Ar %s\n%s\n", row.Key, row.Op, row.Value, row.Text)
				}
				contains(t, page, commands.String())
			}
		})
	}
}

func find(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return found
}

func same(t *testing.T, what string, page, help []string) {
	t.Helper()
	if !slices.Equal(page, help) {
		t.Errorf("%s: the page has %q, the help %q", what, page, help)
	}
}

func contains(t *testing.T, page, lines string) {
	t.Helper()
	if !strings.Contains(page, lines) {
		t.Errorf("the page lacks these lines, in this order:\n%s", lines)
	}
}
