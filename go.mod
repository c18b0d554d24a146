module syd

go 1.26
