<?php

// An application of two middlewares and one controller.

require '/usr/share/php/Illuminate/autoload.php';
foreach (['Kernel', 'ExceptionHandler', 'Routes', 'Controller'] as $class) {
    require __DIR__."/../$class.php";
}

$app = new Illuminate\Foundation\Application(dirname(__DIR__));
$app->singleton(Illuminate\Contracts\Http\Kernel::class, App\Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, App\ExceptionHandler::class);

return $app;
