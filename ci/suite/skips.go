package main

import (
	"slices"
	"strings"
)

// skip is the leave of tests to skip. It is legal only where the machine provably lacks what the test needs and
// another place has it.
type skip struct {
	pkg    string   // below the module, or a tree: "internal/jail/..."
	test   string   // a test with its subtests; "" is every test of the package
	arches []string // where it may skip; nil is everywhere
	why    string   // what is lacking
	where  string   // where the test does run
}

// allowed is the one list of tests that may skip. A skip that it does not name makes the run fail.
var allowed = []skip{}

// leaveFor returns the row that lets the test skip, or nil.
func leaveFor(leave []skip, id name) *skip {
	_, pkg, _ := strings.Cut(id.pkg, "/") // without the module's name
	for i, row := range leave {
		tree, isTree := strings.CutSuffix(row.pkg, "/...")
		inPackage := pkg == row.pkg || isTree && (pkg == tree || strings.HasPrefix(pkg, tree+"/"))
		isTest := row.test == "" || id.test == row.test || strings.HasPrefix(id.test, row.test+"/")
		if inPackage && isTest && (row.arches == nil || slices.Contains(row.arches, id.arch)) {
			return &leave[i]
		}
	}
	return nil
}
