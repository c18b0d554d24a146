// Package version names the release that these programs are built from.
package version

// Version is the release, in semantic versioning.
const Version = "0.1.0"
