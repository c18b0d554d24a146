package arch

// PumpGeneric is the specification that tests hold Pump against.
var PumpGeneric = pumpGeneric
