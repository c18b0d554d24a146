package event

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// sent is a stream of three events as a guest sends it.
func sent(t *testing.T) (string, []Event) {
	t.Helper()
	want := []Event{
		{Seq: 0, Kind: Boot, Arch: runtime.GOARCH},
		{Seq: 1, Kind: Output, Program: "p", Data: []byte("\xff\n\x00")},
		{Seq: 2, Kind: End, Nonce: "n", Count: 1},
	}
	var b bytes.Buffer
	w := Writer{W: &b}
	for _, e := range want {
		if err := w.Send(e); err != nil {
			t.Fatal(err)
		}
	}
	return b.String(), want
}

func TestRead(t *testing.T) {
	text, want := sent(t)
	var got []Event
	if err := Read(strings.NewReader(text), func(e Event) { got = append(got, e) }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	t.Logf("GOARCH %s", runtime.GOARCH)
}

// TestReadDamaged damages the stream in each way that a serial line can.
func TestReadDamaged(t *testing.T) {
	text, _ := sent(t)
	lines := strings.SplitAfter(text, "\n")
	for name, s := range map[string]string{
		"lost":     lines[0] + lines[2],
		"repeated": lines[0] + lines[1] + lines[1] + lines[2],
		"cut":      lines[0] + lines[1][:9] + "\n" + lines[2],
		"joined":   lines[0] + strings.TrimSpace(lines[1]) + lines[2],
		"noise":    lines[0] + "[    0.5] a kernel's line\n" + lines[1] + lines[2],
	} {
		t.Run(name, func(t *testing.T) {
			end := false
			err := Read(strings.NewReader(s), func(e Event) { end = e.Kind == End })
			if err == nil || end {
				t.Fatalf("err %v, end %v: want an error before the end", err, end)
			}
		})
	}
}
